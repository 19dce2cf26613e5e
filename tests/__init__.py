import os
import sys

# Compiling the sources in each process would cost more than most tests, whatever this shell wants. It is settled before
# anything is imported: gateways are forked only for the environment that was there then.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
