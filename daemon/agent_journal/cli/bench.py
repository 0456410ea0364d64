"""Stub."""
EXAMPLES = "  agent-journal bench\n"

def configure(parser):
    pass

def run(arguments):
    return 0
