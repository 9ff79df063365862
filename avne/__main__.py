# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m avne`` is the command ``avne``."""

from __future__ import annotations

import sys

from avne.cli.entry import main

sys.exit(main())
