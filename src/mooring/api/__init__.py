"""The public surface: protocols in and out, the admin API, the pages."""
