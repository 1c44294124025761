"""`backendAuth.aws` from the file to the plan."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from agw.config import ConfigErrors, load_bytes
from agw.runtime.plan_security import AwsSign, BackendAuthPlan

AWS = "aws: {accessKeyId: AKIDEXAMPLE, secretAccessKey: s3cret, region: us-east-1, serviceName: execute-api}"


def plan(auth: str, environ: dict[str, str] | None = None) -> BackendAuthPlan | None:
    head = "gateways: {default: {port: 3000}}\nroutes:\n- backends: [{host: 'a:1'}]\n  policies:\n    backendAuth:\n"
    text = head + textwrap.indent(auth, "      ") + "\n"
    return load_bytes(text.encode(), "f.yaml", environ or {}).plan.routes[0].policies.backend_auth


def test_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("from-file\n")
    assert plan(AWS) == BackendAuthPlan([AwsSign("AKIDEXAMPLE", "s3cret", "", "us-east-1", "execute-api")])
    environ = {"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t", "AWS_REGION": "eu-west-1"}
    with_file = AWS.replace("s3cret,", "{file: secret}, sessionToken: {file: secret},")
    assert plan(with_file) == BackendAuthPlan([AwsSign("AKIDEXAMPLE", "from-file", "from-file", "us-east-1", "execute-api")])
    assert plan("aws: {serviceName: bedrock-agentcore}", environ) == BackendAuthPlan([AwsSign("AKIDENV", "s", "t", "eu-west-1", "bedrock-agentcore")])


@pytest.mark.parametrize(
    ("auth", "text"),
    [
        ("aws: {serviceName: s3, region: r}", "no accessKeyId"),
        ("aws: {accessKeyId: AKIDEXAMPLE, serviceName: s3, region: r}", "`secretAccessKey` is missing"),
        (AWS.replace(", region: us-east-1", ""), "needs a region"),
        (AWS + "\npassthrough: {}", "exclude each other"),
        ("aws: {assumeRole: {roleArn: x}}", "`assumeRole` is known to agw, not implemented yet"),
        ("aws: {sessionToken: s3cret, region: r, serviceName: s3}", "a session token belongs to a key"),
        ("aws: {accessKeyId: AKIDEXAMPLE, secretAccessKey: {file: nowhere}, region: r, serviceName: s3}", "secretAccessKey.file"),
        (AWS + "\ncredentials: [{key: a, location: {queryParameter: {name: k}}}]", "put this credential into another header"),
        (AWS + "\ncredentials: [{key: a, location: {header: {name: x-amz-k}}}]", "put this credential into another header"),
        (AWS + "\ncredentials: [{key: a, location: {header: {name: X-Amz-Date}}}]", "has a credential already"),
        ("gcp: {}", "`gcp` is known to agw, not implemented yet"),
    ],
)
def test_what_is_refused(auth: str, text: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        plan(auth)
    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)
