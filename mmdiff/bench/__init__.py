"""Speed and memory of our networks beside other implementations: one mechanism, and what is compared."""
