"""Runs once for each release, before it gets any traffic. If it fails, the old release goes on serving."""

import os
import sys

if os.environ.get("FAIL_MIGRATION"):
    sys.exit("the migration failed, as FAIL_MIGRATION asked it to")
print(f"nothing to migrate for {os.environ.get('SEAWAY_RELEASE', 'no release')}")
