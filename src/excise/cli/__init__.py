"""Words in, one call of a public function, words out. Nothing heavy is imported until a command runs."""
