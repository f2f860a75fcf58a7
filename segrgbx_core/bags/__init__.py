"""Message types and writing of rosbag2 recordings; alone in the core it imports rosbags."""
