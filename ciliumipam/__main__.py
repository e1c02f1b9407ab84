"""`python -m ciliumipam` is the command `ciliumipam`."""

import sys

from ciliumipam.cli.main import main

sys.exit(main())
