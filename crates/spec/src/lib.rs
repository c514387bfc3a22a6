//! The run spec: its types, checks, defaults and JSON schema; the resolved run
