"""Messages to RGB-X pairs, and the labels that pairs publish; free of rclpy and torch."""
