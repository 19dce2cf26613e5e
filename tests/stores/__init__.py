"""Where the records of the keys live: the rules of merging, the stores, the trial of a key that has cooled down."""
