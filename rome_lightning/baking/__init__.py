"""Tools that make the shipped head and its landmarks; no run imports them."""
