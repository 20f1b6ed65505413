"""Words, contracts, transport, supervision, client and command line of linepipe. Imports no torch and no DALI."""
