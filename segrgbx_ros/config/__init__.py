"""Options of the node and of replay; free of ROS and torch."""
