"""Tables, curves and statistics: pure functions of records."""
