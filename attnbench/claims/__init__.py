"""Published claims of the papers this project starts from, each beside what our runs say of it.

For others: `page`. The claims are data: `claims.yaml`.
"""
