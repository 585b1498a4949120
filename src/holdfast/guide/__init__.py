"""The guide: what is known of every method, what was measured of it, and which to take.

`taxonomy` holds a record of each method, `measured` the numbers that this project has measured,
`setup` what a situation is like and what a method lacks in it, and `recommend` ranks what fits.
"""
