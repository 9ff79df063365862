# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests of avne; a package so that the test bed is `tests.bed` from everywhere."""
