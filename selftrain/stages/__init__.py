"""The stages of one iteration, each a function from records to records whose result lies in the run folder."""
