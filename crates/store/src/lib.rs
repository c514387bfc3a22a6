//! One interface to s3://, file:// and memory: ranged reads, conditional puts, retries, faults for tests
