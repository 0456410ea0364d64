"""Stub."""
EXAMPLES = "  agent-journal doctor\n"

def configure(parser):
    pass

def run(arguments):
    return 0
