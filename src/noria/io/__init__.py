"""The kernel's side: channels (what is waited on) and drivers (how it is waited for)."""
