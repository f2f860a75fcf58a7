"""ROS messages to arrays and back; free of rclpy and torch."""
