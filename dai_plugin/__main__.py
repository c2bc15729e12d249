"""`python -m dai_plugin` is `dai-plugin`."""

import sys

from dai_plugin.cli import main

sys.exit(main())
