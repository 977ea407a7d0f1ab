"""Speed, always beside a peer in the same run and printed as a ratio; see `harness`."""
