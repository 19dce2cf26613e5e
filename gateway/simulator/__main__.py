"""`python -m gateway.simulator`: the same command as `gateway simulate`."""

import argparse
import sys

from gateway.simulator import cli

parser = argparse.ArgumentParser(prog="gateway simulate", description=cli.DESCRIPTION)
cli.configure(parser)
sys.exit(cli.run(parser.parse_args()))
