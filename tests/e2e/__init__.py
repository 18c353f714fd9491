"""The real program against real backends, over real sockets."""
