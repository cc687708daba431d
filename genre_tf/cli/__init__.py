"""The command line: a function for each verb; verbs that share options and output share a file."""
