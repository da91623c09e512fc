"""What ``mooring doctor`` looks at: each check gives findings, and a bad one says what to do."""
