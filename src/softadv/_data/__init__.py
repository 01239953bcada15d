"""Finding, reading, downloading and checking data sets."""
