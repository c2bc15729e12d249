"""`python -m dai_plugin` is `dai-plugin`."""

import sys

from dai_plugin.cli.main import main

sys.exit(main())
