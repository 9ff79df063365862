# SPDX-License-Identifier: GPL-3.0-or-later
"""How the netstack and the workers lock themselves in."""
