"""The check of the types and shapes in signatures that pytest applies to the packages it names."""

from beartype import BeartypeConf, beartype

# As for type checkers, an int is also a float.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
