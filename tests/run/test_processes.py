"""The start and the end of several processes: together, refused by one, failed in one, killed."""

import signal
import socket
import subprocess
import sys

import jax
import pytest

from jaxprop.errors import UsageError
from jaxprop.run.processes import DEFAULTS, start_processes
from run.many import ended, free_port, run_program, started, variables
