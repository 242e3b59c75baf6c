"""`python -m webhook` is the command `seamless`."""

import sys

from webhook.cli import main

sys.exit(main())
