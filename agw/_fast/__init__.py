"""The compiled data plane. Imports nothing of agw outside itself; each module has a .pxd (contract) and .pyi (manual)."""
