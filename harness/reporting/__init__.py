"""What people read: tables, the live view."""
