-- wrk script: sends finished requests from a file (harness/http_messages.py, write_requests) and reports JSON.
-- One request: wrk's static path, no Lua per request. Several: taken in turn, one table access each.

local requests = {}

function init(args)
  local file = assert(io.open(args[1], "rb"))
  for length in file:read("*l"):gmatch("%d+") do
    requests[#requests + 1] = length
  end
  for i, length in ipairs(requests) do
    requests[i] = file:read(tonumber(length))
  end
  file:close()
  if #requests == 1 then
    wrk.format = function() return requests[1] end
  else
    local turn = 0
    request = function()
      turn = turn % #requests + 1
      return requests[turn]
    end
  end
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    'BENCH {"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d}\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
