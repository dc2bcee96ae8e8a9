"""The methods of this package, one in each file. A file is imported only where its method runs."""
