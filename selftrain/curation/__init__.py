"""`selftrain curate`: settings, measurements by models, and the data card's page. The decisions are in data_process."""
