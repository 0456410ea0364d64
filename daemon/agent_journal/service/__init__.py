"""The long-lived process: everything between the socket and the store."""
