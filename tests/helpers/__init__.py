"""What several test files share; no test file is imported by another."""
