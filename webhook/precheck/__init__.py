"""The program of the `seamless-precheck` init container: the standard library only."""
