"""What is watched, and what happens then: every event only says which resource to look at again."""
