"""Networks, and the policies made of them."""
