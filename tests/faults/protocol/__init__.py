"""The protocol as a state machine: actors interleaved at every write, an oracle that knows what is true."""
