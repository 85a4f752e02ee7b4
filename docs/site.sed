# What Doxygen does not understand of links that forges do: a heading of another page, and files that are no page.
s,\]\([^)]*\.md(#[a-z0-9-]+)\),](\1),g
s,([^!]|^)\[([^]]*)\]\(([^):#]*/)?[^):#/]*\.(cpp|hpp|txt|csv)\),\1\2,g
s,\[([^]]*)\]\(\.\./Containerfile\),\1,g
