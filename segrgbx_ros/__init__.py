"""All about topics, messages and bags: the lifecycle node, the replay tool and the demo.

`config`, `messages` and `pipeline` import neither ROS nor torch, so replay and tests run
without both.
"""
