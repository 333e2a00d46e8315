"""Echo servers under load.c."""
