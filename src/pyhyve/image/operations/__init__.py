"""What is done with whole images: convert, compare, rebase, commit, measure. Works on the contract only."""
