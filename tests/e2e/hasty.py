"""`seamless` with the waits between its rounds cut short: what takes minutes is seen in seconds."""

from __future__ import annotations

import sys

from webhook import cli
from webhook.cluster import authority, trust
from webhook.tls import certificates

SETTLE_SECONDS = 2.0
POLL_SECONDS = 0.5


def main() -> int:
    """Run the command line."""
    certificates._POLL_SECONDS = POLL_SECONDS
    trust.POLL_SECONDS = trust.UNREADY_SECONDS = POLL_SECONDS
    authority.POLL_SECONDS = authority.UNREADY_SECONDS = POLL_SECONDS
    defaults = authority.SelfManagedCertificates.__init__.__kwdefaults__
    defaults["lifetimes"] = authority.Lifetimes(settle_seconds=SETTLE_SECONDS)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
