"""Whether packages that poolnet needs have known vulnerabilities: ``make audit``."""
