"""Between the API's messages and the values that handlers know."""
