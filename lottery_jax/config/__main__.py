"""Print the page of all config keys as Markdown.

python -m lottery_jax.config > docs/config.md
"""

from lottery_jax.config.reference import as_markdown

if __name__ == "__main__":
    print(as_markdown(), end="")
